"""Detection over HTTP, and a web page (the extra `serve`).

A request goes `routes` -> `state` -> `uploads` -> `queue` -> `pictures`; `app` puts them together.
"""
