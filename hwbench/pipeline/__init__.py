"""The line that a candidate goes: prepared, measured, judged, confirmed, repeated, bundled."""
