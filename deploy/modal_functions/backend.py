"""The web form's work, done by a function on Modal."""

from typing import Any

import modal
from modal import exception

from deploy.web.app import ExpiredError, Failed, Finished, SubmitRequest, UnknownCallError, Working

NO_CALL = (exception.NotFoundError, exception.InvalidError)


class ModalBackend:
    """Calls are spawned there; their ids are Modal's own."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def submit(self, talk: SubmitRequest) -> str:
        """Spawn a call."""
        call_id: str = self.function.spawn(dict(talk.media), talk.prompt).object_id
        return call_id

    def result(self, call_id: str) -> Working | Finished | Failed:
        """What Modal says of it."""
        try:
            return Finished(video=modal.FunctionCall.from_id(call_id).get(timeout=0))
        except exception.OutputExpiredError as error:
            raise ExpiredError(call_id) from error
        except exception.FunctionTimeoutError as error:
            return Failed(message=f"the work took too long: {error}")
        except (TimeoutError, exception.TimeoutError):
            return Working()
        except NO_CALL as error:
            raise UnknownCallError(call_id) from error
        except exception.Error as error:
            return Failed(message=f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - what the function raised comes here as it was
            return Failed(message=str(error))

    def cancel(self, call_id: str) -> None:
        """Stop it: Modal raises in the container, which the pipeline lets pass."""
        try:
            modal.FunctionCall.from_id(call_id).cancel()
        except NO_CALL as error:
            raise UnknownCallError(call_id) from error
