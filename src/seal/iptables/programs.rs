//! The programs `iptables`, `ip6tables` and `ipset`, told what the seal needs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::{deletion, document, draining, draining_ended, entrance, trial_chains, without_others};
use super::hooks::{DRAINING, FAMILIES, Family, HOOKS, TRIAL, exempt_rule};
use super::saved::Saved;
use super::tables::{Tables, TrialSet};
use crate::seal::boot::Boot;
use crate::seal::error::FirewallError;
use crate::seal::exemption::Exemption;
use crate::seal::plan::Plan;
use crate::seal::tool;
use crate::settings::Backend;

/// The seal by `iptables` and `ip6tables`.
#[derive(Clone, Copy, Debug)]
pub struct Iptables {
    /// Which of the two kinds.
    pub(in crate::seal) legacy: bool,
}

impl Iptables {
    pub(in crate::seal) fn usable(self) -> Result<(), FirewallError> {
        let backend = if self.legacy {
            Backend::IptablesLegacy
        } else {
            Backend::IptablesNft
        };
        let unusable = |error: FirewallError| FirewallError::Unusable {
            backend,
            why: error.to_string(),
        };
        let sample = Plan::sample(backend);
        for family in FAMILIES {
            let rules = document(Some(&sample), false, family, None, &Saved::default());
            let test = ["--test", "--noflush"];
            tool::run(&self.tool(family, "restore"), &test, &rules, "trying the rules").map_err(unusable)?;
        }
        // Without it nothing would undo a trial.
        tool::run("ipset", &["--version"], "", "telling its version").map_err(unusable)?;
        Ok(())
    }

    pub(in crate::seal) fn print(self, plan: &Plan) -> String {
        let rules = |family| {
            let restore = self.tool(family, "restore");
            format!(
                "# {restore} --noflush\n{}",
                document(Some(plan), false, family, None, &Saved::default())
            )
        };
        FAMILIES.map(rules).join("\n")
    }

    pub(in crate::seal) fn load(
        self,
        confirmed: Option<&Plan>,
        trial: Option<(&Plan, Duration)>,
        exemption: Option<&Exemption>,
    ) -> Result<(), FirewallError> {
        let exempt = exemption.map(exempt_rule);
        if trial.is_some() {
            // An earlier trial ends here; until the new one's ports are in the set its chains match nothing.
            let empty =
                format!("create {TRIAL} bitmap:port range 0-65535 timeout 60 -exist\nflush {TRIAL}\n");
            tool::run("ipset", &["restore"], &empty, "making the trial's set")?;
        }
        for family in FAMILIES {
            let saved = self.saved(family)?;
            let mut rules = String::new();
            if let Some((plan, _)) = trial {
                rules.push_str(&trial_chains(plan, family));
            }
            rules.push_str(&document(
                confirmed,
                trial.is_some(),
                family,
                exempt.as_deref(),
                &saved,
            ));
            rules.push_str(&without_others(&saved, confirmed, trial.map(|(plan, _)| plan)));
            // The rules above keep connections translated from here on.
            rules.push_str(&draining_ended(&saved));
            self.submit(family, &rules, "loading the rules")?;
        }
        match trial {
            None => {
                for family in FAMILIES {
                    let of_trial = |chain: &str| chain.ends_with("-TRIAL");
                    let left = deletion(&self.saved(family)?, of_trial, false);
                    self.submit(family, &left, "tidying up after the trial")?;
                }
                destroy_set()
            }
            Some((plan, window)) => {
                let ports = plan.ports.iter();
                let ports = ports.chain(confirmed.into_iter().flat_map(|plan| &plan.ports));
                let ports = ports.map(|port| port.port);
                tool::run(
                    "ipset",
                    &["restore"],
                    &members(ports, window.as_secs().max(1)),
                    "starting the trial",
                )
                .map(drop)
            }
        }
    }

    pub(in crate::seal) fn confirm(
        self,
        trial: &Plan,
        exemption: Option<&Exemption>,
    ) -> Result<(), FirewallError> {
        let set = trial_set()?.ok_or(FirewallError::TooLate)?;
        let lasting = members(set.ports(), 0);
        if lasting.is_empty() {
            return Err(FirewallError::TooLate);
        }
        // From here on no port times out. If one of the steps that follow fails, this plan is in force in
        // every table, by the trial's rules or by confirmed ones, and can be loaded again.
        tool::run("ipset", &["restore"], &lasting, "confirming the trial")?;
        self.load(Some(trial), None, exemption)
    }

    pub(in crate::seal) fn admit(self, exemption: &Exemption) -> Result<(), FirewallError> {
        let exempt = exempt_rule(exemption);
        let rules: String = HOOKS
            .iter()
            .filter(|hook| hook.exempt)
            .map(|hook| format!("*{}\n{}COMMIT\n", hook.table, entrance(hook, Some(&exempt))))
            .collect();
        FAMILIES
            .into_iter()
            .try_for_each(|family| self.submit(family, &rules, "admitting the gate's own connections"))
    }

    pub(in crate::seal) fn remove(self, comment: Option<&str>) -> Result<(), FirewallError> {
        for family in FAMILIES {
            let saved = self.saved(family)?;
            let kept = match comment {
                Some(comment) => draining(&saved, comment),
                None => draining_ended(&saved),
            };
            let rules = kept + &deletion(&saved, |_| true, true);
            self.submit(family, &rules, "removing the chains")?;
        }
        destroy_set()
    }

    /// What is kept of a seal that was removed, as it is listed.
    pub(in crate::seal) fn draining(self) -> Result<Option<String>, FirewallError> {
        for family in FAMILIES {
            let saved = self.saved(family)?;
            if saved.has("nat", DRAINING) {
                return Ok(Some(saved.rules("nat", DRAINING).join("\n")));
            }
        }
        Ok(None)
    }

    pub(in crate::seal) fn end_draining(self) -> Result<(), FirewallError> {
        FAMILIES.into_iter().try_for_each(|family| {
            let rules = draining_ended(&self.saved(family)?);
            self.submit(
                family,
                &rules,
                "removing the chain that kept connections translated",
            )
        })
    }

    pub(in crate::seal) fn tables(self) -> Result<Tables, FirewallError> {
        let [ipv4, ipv6] = FAMILIES.map(|family| self.saved(family));
        Ok(Tables::new(ipv4?, ipv6?, trial_set()?))
    }

    pub(in crate::seal) fn boot(self, plan: &Plan, directory: &Path) -> Boot {
        let mut boot = Boot {
            files: Vec::new(),
            commands: Vec::new(),
        };
        for (family, extension) in [(Family::Ipv4, "v4"), (Family::Ipv6, "v6")] {
            let file = directory.join(format!("confirmed-{}.{extension}", plan.id()));
            let tool = self.tool(family, "restore");
            let program = tool::find(&tool).unwrap_or_else(|_| PathBuf::from("/usr/sbin").join(&tool));
            boot.commands.push(vec![
                program.display().to_string(),
                "--noflush".into(),
                file.display().to_string(),
            ]);
            boot.files
                .push((file, document(Some(plan), false, family, None, &Saved::default())));
        }
        boot
    }

    /// `iptables-nft-restore` and its like.
    fn tool(self, family: Family, what: &str) -> String {
        let kind = if self.legacy { "legacy" } else { "nft" };
        format!("{}-{kind}-{what}", family.program())
    }

    fn submit(self, family: Family, rules: &str, doing: &'static str) -> Result<(), FirewallError> {
        if rules.is_empty() {
            return Ok(());
        }
        // Another program's lock is waited for: kube-proxy holds it for long on a big cluster.
        let arguments = ["--noflush", "--wait", "5"];
        tool::run(&self.tool(family, "restore"), &arguments, rules, doing).map(drop)
    }

    fn saved(self, family: Family) -> Result<Saved, FirewallError> {
        let text = tool::run::<&str>(&self.tool(family, "save"), &[], "", "listing the rules")?;
        Ok(Saved::parse(&text))
    }
}

/// Puts these ports into the trial's set, for so many seconds; 0: for good.
fn members(ports: impl Iterator<Item = u16>, seconds: u64) -> String {
    ports
        .map(|port| format!("add {TRIAL} {port} timeout {seconds} -exist\n"))
        .collect()
}

fn set_exists() -> Result<bool, FirewallError> {
    let names = tool::run("ipset", &["list", "-name"], "", "listing the sets")?;
    Ok(names.lines().any(|name| name == TRIAL))
}

fn trial_set() -> Result<Option<TrialSet>, FirewallError> {
    if !set_exists()? {
        return Ok(None);
    }
    match tool::run("ipset", &["list", TRIAL], "", "listing the trial's set") {
        Ok(listed) => Ok(Some(TrialSet::parse(&listed))),
        // Another process may have removed it in between.
        Err(error) => set_exists()?.then_some(Err(error)).transpose(),
    }
}

fn destroy_set() -> Result<(), FirewallError> {
    match set_exists() {
        Ok(true) => tool::run("ipset", &["destroy", TRIAL], "", "removing the trial's set").map(drop),
        // Where there is no ipset there was no trial.
        Ok(false) | Err(FirewallError::Missing { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
