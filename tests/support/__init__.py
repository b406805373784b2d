"""What tests are made of: a daemon, an app in this process, an NBD client, programs to drive."""
