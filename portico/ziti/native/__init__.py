"""Ziti's library, kept in processes of its own."""
