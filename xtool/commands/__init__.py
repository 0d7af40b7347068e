"""Commands: one thin function each, with heavy imports inside it, so that help stays light."""
