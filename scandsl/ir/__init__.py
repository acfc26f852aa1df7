"""The typed intermediate form: values, builder, adjoint, printer, verifier."""
