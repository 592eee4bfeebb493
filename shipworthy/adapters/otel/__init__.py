"""OpenTelemetry: through its interface alone; the SDK and the exporters are the user's."""

from shipworthy.adapters.otel.ids import StableIds as StableIds
from shipworthy.errors import MissingExtra

try:
    from shipworthy.adapters.otel.telemetry import OTelTelemetry as OTelTelemetry
except ModuleNotFoundError as error:
    raise MissingExtra(
        f"OTelTelemetry needs the package {error.name}.", fix='pip install "shipworthy[otel]"'
    ) from error
