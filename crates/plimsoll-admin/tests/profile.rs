//! Heap profiles, over real connections.
