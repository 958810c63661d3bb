"""What foredraft does when something breaks: the fault matrix, deadlines under it, and the soak. Real processes, real sockets."""
