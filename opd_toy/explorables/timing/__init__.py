"""How long the sliders take: to appear, and to follow a control."""
