"""OpenTelemetry: through its interface alone; the SDK and the exporters are the user's."""

from shipworthy.adapters.otel.ids import StableIds as StableIds
from shipworthy.adapters.otel.telemetry import OTelTelemetry as OTelTelemetry
