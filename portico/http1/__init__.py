"""HTTP/1.1 on the wire, shared by the servers of the transports and of the gateway."""
