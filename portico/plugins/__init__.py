"""What plugs into Portico: hook specifications, the plugin manager and the built-ins."""
