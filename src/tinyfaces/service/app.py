"""The application, put together: addresses, shared state, and the web page's files."""

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from tinyfaces import __version__
from tinyfaces.service import routes
from tinyfaces.service.limits import Limits
from tinyfaces.service.queue import Engine
from tinyfaces.service.state import Restore, ServiceState


def create_app(
    engines: Mapping[str, Engine], limits: Limits | None = None, *, lanes: int = 2, restore: Restore | None = None
) -> FastAPI:
    """The web application.

    Args:
        engines: The models, by the names under which requests choose them; the first is the default.
        limits: What requests may ask for.
        lanes: How many batches run at once.
        restore: A function of an image HxWx3 uint8 RGB and boxes (N, 4), x1 y1 x2 y2 in pixels, that restores them with their
            surroundings: (N, S, S, 3) uint8 RGB. If None, the service restores no faces.

    Returns:
        An ASGI application.

    Example:
        ```python
        from tinyfaces import Detector
        from tinyfaces.service.app import create_app
        from tinyfaces.service.queue import Engine

        detector = Detector()
        app = create_app({"accurate": Engine(detector, detector)})
        ```
    """
    state = ServiceState(engines, limits or Limits(), lanes, restore)
    app = FastAPIOffline(
        redoc_url=None,
        title="tinyfaces",
        version=__version__,
        description="Finds tiny faces in photos. Nothing that is sent is kept.",
        lifespan=state.running,
    )
    app.state.service = state
    app.add_middleware(lambda app: state.metrics.watching(app))
    app.mount("/page", StaticFiles(directory=routes.PAGE), name="page")
    app.include_router(routes.pictures)
    if restore is not None:
        app.include_router(routes.restoring)
    app.include_router(routes.service)
    app.add_exception_handler(RequestValidationError, _one_line)
    return app


async def _one_line(request: Request, error: Exception) -> JSONResponse:
    """What is wrong with a request's options, in one line."""
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    return JSONResponse({"detail": f"{problem['loc'][1]}: {problem['msg']}"}, 422)
