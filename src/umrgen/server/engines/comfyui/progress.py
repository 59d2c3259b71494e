"""From the messages of ComfyUI to the steps, phases and previews of a job."""

from umrgen.server.engines import EncodedImage, Phase, Report
from umrgen.server.engines.comfyui.answers import Event, Executing, NodeProgress, PreviewFrame

__all__ = ["ComfyProgress"]


class ComfyProgress:
    """The progress of one prompt: the steps of its sampler, scaled to the steps of the request, each reported once."""

    def __init__(self, report: Report, steps: int, samplers: tuple[str, ...], prompt_id: str) -> None:
        self._report = report
        self._steps = steps
        self._samplers = samplers
        self._prompt_id = prompt_id
        self._reported = 0
        self._begun = False
        """Whether a message with the id of this prompt arrived: a preview without an id is of this prompt."""
        self._preview: EncodedImage | None = None

    def running(self) -> None:
        """Observe in ComfyUI's queue that the prompt waits or runs: while models are loaded, no message is sent."""
        if not self._reported:
            self._report.phase(Phase.LOADING)

    def observe(self, event: Event) -> None:
        """Observe a message. Raises Cancelled when the job was cancelled."""
        if event.prompt_id not in (None, self._prompt_id):
            return
        self._begun |= event.prompt_id is not None
        match event:
            case PreviewFrame() if self._begun:
                self._preview = EncodedImage(event.data, event.media_type)
            case NodeProgress() if self._is_sampler(event.node):
                self._step(event.value, event.maximum)
            case NodeProgress() | Executing():
                self._other_node()

    def _is_sampler(self, node: str) -> bool:
        return not self._samplers or node in self._samplers

    def _other_node(self) -> None:
        """A node before the sampler loads a model, mostly; one after it encodes, and may load an upscaler."""
        if self._reported >= self._steps:
            self._report.phase(Phase.ENCODING)
        self._report.phase(Phase.LOADING)

    def _step(self, value: float, maximum: float) -> None:
        """Report the steps up to this one. The preview of a step arrives before its message."""
        if not 0 < value <= maximum:
            return
        reached = min(self._steps, int(value if maximum == self._steps else value * self._steps / maximum))
        image, self._preview = self._preview, None
        while self._reported < reached:
            self._reported += 1
            last = self._reported == reached and image is not None
            self._report(self._reported, self._steps, (lambda: image) if last else None)  # type: ignore[arg-type,return-value]

    def finish(self) -> None:
        """Report the steps that no message reported: the socket may have been closed, or the result cached."""
        self._step(self._steps, self._steps)
        self._report.phase(Phase.ENCODING)
