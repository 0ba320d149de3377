"""The command line: what a person types, what they see. It does nothing that `gary.client` cannot do."""
