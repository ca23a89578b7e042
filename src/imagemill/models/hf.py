"""Hugging Face Inference: its providers, dedicated endpoints, and servers that speak its protocol."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Self, cast

from pydantic import Field

from imagemill.environment import package_version
from imagemill.errors import MissingExtra, ModelError, UsageError, did_you_mean
from imagemill.records import Request
from imagemill.remote.client import CallFailed, Client, checked_base_url, told
from imagemill.remote.model import Picture, Remote, decoded, image_of
from imagemill.remote.servers import Server, remembered, told_by

_ROUTER = "https://router.huggingface.co/v1"
_TAKES = ("negative_prompt", "num_inference_steps", "guidance_scale", "size")
"""What the protocol has; whether a seed is heeded differs between providers, and only a probe tells."""


_POLLED = {"wavespeed", "zai-org"}
"""Providers that answer with a task to ask after, which is not done here."""


class Hf(Remote):
    """Hugging Face Inference Providers and Endpoints; the key comes from HF_TOKEN."""

    key_variable: ClassVar[str] = "HF_TOKEN"
    several: ClassVar[bool] = False

    model: str = Field(min_length=1)
    """The model's id on the hub, such as `black-forest-labs/FLUX.1-schnell`."""
    provider: str = "auto"
    """Who computes: `hf-inference`, `fal-ai`, `together`, …; `auto` takes the first of your account's."""
    endpoint_name: str | None = None
    """A dedicated endpoint of yours, by name."""
    endpoint_namespace: str | None = None
    """The user or organization to whom the endpoint belongs; yours when not given."""

    def resolve(self, known: Mapping[str, Any], workers: int) -> Self:
        """Also check that provider, endpoint and address do not contradict each other, and find the endpoint."""
        named = [name for name in ("base_url", "endpoint_name") if getattr(self, name)]
        if self.provider != "auto":
            named.append("provider")
        if len(named) > 1:
            raise UsageError(f"`{named[0]}` and `{named[1]}` both say where the model is", "give one of them")
        if self.provider != "auto" and self.provider not in (known_providers := _providers()):
            raise UsageError(
                f"`provider`: there is no `{self.provider}`",
                did_you_mean(self.provider, known_providers) or f"known: {', '.join(known_providers)}",
            )
        if self.endpoint_namespace and not self.endpoint_name:
            raise UsageError("`endpoint_namespace` without `endpoint_name`", "name the endpoint too")
        return super().resolve(known, workers)

    def needs_key(self) -> bool:
        """Whether it is on the hub."""
        return not self.base_url

    def server(self) -> Server:
        """What an imagemill server tells, or a probe has found, else what the protocol has."""
        return told_by(self) or remembered(self) or Server(_TAKES, "1024x1024")

    def address(self) -> str:
        """Where the model is, as far as that is one place."""
        if self.base_url:
            return checked_base_url(self.base_url)
        if self.endpoint_name:
            return _endpoint(self.endpoint_name, self.endpoint_namespace, self.key())
        return _ROUTER

    def served_name(self) -> str:
        """The id on the hub."""
        return self.model

    def description_url(self) -> str:
        """Beside the address of the model, on a server of imagemill's kind."""
        root, between, name = (self.base_url or "").partition("/models/")
        return f"{root}/v1/models/{name}" if between else ""

    def chat_url(self) -> str:
        """Chat completions, of the router or of the endpoint."""
        address = self.address()
        return f"{address}/chat/completions" if address.endswith("/v1") else f"{address}/v1/chat/completions"

    async def pictures(self, client: Client, requests: Sequence[Request]) -> Sequence[Picture | CallFailed]:
        """Make one image."""
        (request,) = requests
        url, body, headers = await asyncio.to_thread(self.prepared, request)
        answer = await client.call("POST", url, self.most_bytes(requests), json=body, more_headers=headers)
        if answer.content_type.startswith("image/"):
            return [Picture(request, answer.body)]
        return [Picture(request, await image_in(client, answer.json()))]

    async def edits(self, client: Client) -> bool:
        """Not with this protocol."""
        del client
        return False

    def prepared(self, request: Request) -> tuple[str, Any, dict[str, str]]:
        """Return address, body and further headers, in the provider's own dialect, which the hub's library knows."""
        parameters = {
            "negative_prompt": request.negative_prompt or None,
            "width": request.width if "size" in self.takes else None,
            "height": request.height if "size" in self.takes else None,
            "num_inference_steps": request.num_inference_steps or None,
            "guidance_scale": request.guidance_scale or None,
            "seed": request.seed if "seed" in self.takes else None,
            "scheduler": request.scheduler or None,
        }
        given = {name: value for name, value in parameters.items() if value is not None}
        if self.base_url or self.endpoint_name:
            return self.address(), {"inputs": request.prompt, "parameters": given}, {"Accept": "image/png"}
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.inference._providers import get_provider_helper

        try:
            helper = get_provider_helper(cast("Any", self.provider), task="text-to-image", model=self.model)

            def prepare(parameters: dict[str, Any]) -> Any:
                return helper.prepare_request(
                    inputs=request.prompt, parameters=parameters, headers={}, model=self.model, api_key=self.key()
                )

            prepared = prepare(given)
            # A dialect that has no word for a parameter leaves it out in silence.
            for name in given:
                if prepare({**given, name: None}).json == prepared.json:
                    raise CallFailed("bad_request", f"`{self.provider}` takes no `{name}`: leave it out")
        except HfHubHTTPError as error:
            failure = told(error.response.status_code, error.response.headers, b"")
            raise CallFailed(failure.reason, f"the hub: {error}", again=failure.again) from None
        except (httpx2.HTTPError, OSError) as error:
            raise CallFailed("unreachable", f"the hub cannot be asked for providers: {error}", again=True) from None
        except ValueError as error:
            raise CallFailed("model_gone", str(error)) from None
        headers = {name: value for name, value in prepared.headers.items() if name.lower() != "user-agent"}
        return prepared.url, prepared.json, headers


def _providers() -> list[str]:
    if not package_version("huggingface_hub"):
        raise MissingExtra("huggingface_hub", "imagemill[remote]")
    from huggingface_hub.inference._providers import PROVIDERS

    return [name for name, tasks in PROVIDERS.items() if "text-to-image" in tasks and name not in _POLLED]


@lru_cache(maxsize=16)
def _endpoint(name: str, namespace: str | None, token: str) -> str:
    """The address of a dedicated endpoint, from the hub; raises ModelError."""
    if not package_version("huggingface_hub"):
        raise MissingExtra("huggingface_hub", "imagemill[remote]")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        endpoint = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token).get_inference_endpoint(
            name, namespace=namespace
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(f"the endpoint `{name}` cannot be found: {error}", "see your endpoints on the hub") from None
    if not endpoint.url:
        raise ModelError(f"the endpoint `{name}` is {endpoint.status} and has no address", "start it first")
    return str(endpoint.url).rstrip("/")


async def image_in(client: Client, answer: Any) -> bytes:
    """The file in an answer, whichever way a provider puts it; raises CallFailed."""
    found: Any = answer
    if isinstance(answer, dict) and "output" in answer and answer["output"] is None:
        raise CallFailed("timeout", "the provider has begun and not ended in time", paid=None)
    for _ in range(4):
        if isinstance(found, str):
            return await image_of(client, {"url": found}) if found.startswith("http") else decoded(found)
        if isinstance(found, list) and found:
            found = found[0]
        elif isinstance(found, dict) and (found.get("b64_json") or found.get("url")):
            return await image_of(client, found)
        elif isinstance(found, dict):
            names = ("images", "data", "output", "outputs", "artifacts", "image", "base64")
            found = next((found[name] for name in names if found.get(name)), None)
        else:
            break
    raise CallFailed("bad_image", f"no image in the answer: {json.dumps(answer)[:80]}", again=True, paid=None)
