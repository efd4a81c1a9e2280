"""Detection over HTTP, and a web page (the extra `serve`). A request goes `uploads` -> `queue` -> `pictures`; `app` leads it."""
