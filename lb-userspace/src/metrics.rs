//! OpenMetrics.
