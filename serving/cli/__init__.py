"""What `./slipway COMMAND` does. Every failure says its remedy and exits non-zero."""
