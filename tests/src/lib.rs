//! The harness of the scenarios that test the system from outside.
