"""Client libraries and proxies as they are, against two builds of the server side by side."""
