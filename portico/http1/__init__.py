"""HTTP/1.1 on the wire, shared by both servers: the transports' and the gateway's."""
