//! Egress.

/// Which addresses outside the pod network guests may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EgressRules {
    /// Whether link-local addresses, among them the metadata services of clouds, are open to guests.
    pub link_local: LinkLocal,
}

/// Whether `169.254.0.0/16` and `fe80::/10` are open to guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinkLocal {
    /// Refused.
    #[default]
    Closed,
    /// Open.
    Open,
}
