"""The domain: values and pure rules. No I/O, no clock, no framework."""
