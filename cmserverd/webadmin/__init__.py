"""WebAdmin: the license server's pages for people, a process of its own that asks the daemon through its sockets."""
