"""How the zoo was trained: networks, lessons, the quality bar."""
