"""Commands: one thin function each. Heavy imports stand inside the functions, so help stays light."""
