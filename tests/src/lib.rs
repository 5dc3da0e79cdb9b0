//! Tests of whole services, in `tests/`. There is nothing to use here.
