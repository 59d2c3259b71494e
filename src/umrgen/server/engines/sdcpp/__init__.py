"""The engine of stable-diffusion.cpp: draws with `sd-server`, which runs already or is started here.

`transport.py` is the only module that uses its routes, and `answers.py` the only one that reads its responses.
"""
