"""Wire formats: bytes in, values out, and back. No module here opens, reads or waits for anything."""
