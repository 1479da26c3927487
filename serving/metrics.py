"""The server's metrics, for Prometheus.

The gauges of waiting requests, of running requests and of the cache are those that the model server
protocol of the Kubernetes Gateway API's inference extension asks for.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.forms.answers import Usage

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Upper bounds of the histograms' buckets."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry(auto_describe=True)
        self.requests = Counter(
            "triform_requests", "Requests answered.", ("route", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "triform_request_seconds",
            "Time of a request, from its header to the end of its answer.",
            ("route",),
            registry=registry,
            buckets=SECONDS,
        )
        self.first_token_seconds = Histogram(
            "triform_time_to_first_token_seconds",
            "Time from a request's header to the first part of a streamed answer.",
            registry=registry,
            buckets=SECONDS,
        )
        self.prompt_tokens = Counter(
            "triform_prompt_tokens", "Tokens of prompts that were read.", registry=registry
        )
        self.generated_tokens = Counter(
            "triform_generated_tokens", "Tokens that were written.", registry=registry
        )

    def count_tokens(self, used: Usage) -> None:
        """Count the tokens of an answer."""
        self.prompt_tokens.inc(used.prompt_tokens)
        self.generated_tokens.inc(used.completion_tokens)

    def watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is computed whenever the metrics are read."""
        Gauge(name, meaning, registry=self.registry).set_function(value)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
