//! What a session carries: readings, acknowledgements, gaps, time, commands.
