"""What is made of many fits: bootstrap, studies of recovery and tests, power, and the designs for them."""
