"""The edge to people and monitors: the page, the API, events, metrics and the original interface."""
