"""The ComfyUI engine: runs the operator's workflow on one or several ComfyUI servers.

`transport.py` is the only module that uses ComfyUI's HTTP and WebSocket routes, and `answers.py` the only one that
reads the fields of its responses and messages.
"""
