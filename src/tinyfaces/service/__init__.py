"""Detection over HTTP and a web page (the extra `serve`); one request goes `uploads` -> `queue` -> `pictures`, put together in `app`."""
