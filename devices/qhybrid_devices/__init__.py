"""Backends of qhybrid, one folder or file each. The core never imports this package."""
