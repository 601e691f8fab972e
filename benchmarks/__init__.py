"""Side-by-side measurements: each prints ratios, never absolute claims."""
