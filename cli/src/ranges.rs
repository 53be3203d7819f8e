//! Of which families the addresses of a cluster in this process are.

use coracle_control_plane::ServiceFamilies;

/// Where pods and Services have their addresses, as it was asked for on the command line.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RangeArgs {
    /// Give each pod an address of IPv6 too, of fd00:10:244::/64, and Services that ask for one, of
    /// fd00:10:96::/112
    #[arg(long)]
    dual_stack: bool,
}

impl RangeArgs {
    /// Returns the families of the addresses.
    pub(crate) fn families(&self) -> ServiceFamilies {
        match self.dual_stack {
            true => ServiceFamilies::Both,
            false => ServiceFamilies::Ipv4,
        }
    }
}
