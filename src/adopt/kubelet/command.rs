//! What a unit's command starts in the end, when it begins with programs that only start another.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::invocation::{Word, program};
use super::root::Root;
use super::shell;

/// How many programs may start one another.
const DEPTH: usize = 8;

/// A program that starts another and passes its arguments on as they are.
struct Wrapper {
    name: &'static str,
    /// Its options of one letter: those without a value, and those with one.
    flags: &'static str,
    valued: &'static str,
    /// Its long options whose value may be the next word. Of others a value stands behind `=`.
    long_valued: &'static [&'static str],
    /// How many words stand between its options and the command.
    operands: usize,
}

const fn wrapper(
    name: &'static str,
    flags: &'static str,
    valued: &'static str,
    long_valued: &'static [&'static str],
    operands: usize,
) -> Wrapper {
    Wrapper {
        name,
        flags,
        valued,
        long_valued,
        operands,
    }
}

const WRAPPERS: [Wrapper; 19] = [
    wrapper("nice", "0123456789", "n", &["adjustment"], 0),
    wrapper("ionice", "t", "cn", &["class", "classdata"], 0),
    wrapper(
        "numactl",
        "lba",
        "imNCpPw",
        &[
            "interleave",
            "membind",
            "cpunodebind",
            "physcpubind",
            "preferred",
            "weighted-interleave",
        ],
        0,
    ),
    wrapper("taskset", "ac", "", &[], 1),
    wrapper(
        "chrt",
        "forbidRav",
        "TPD",
        &["sched-runtime", "sched-period", "sched-deadline"],
        0,
    ),
    wrapper("env", "i0v", "uC", &["unset", "chdir"], 0),
    wrapper("stdbuf", "", "ioe", &["input", "output", "error"], 0),
    wrapper("prlimit", "v", "", &[], 0),
    wrapper(
        "setpriv",
        "d",
        "",
        &[
            "ambient-caps",
            "inh-caps",
            "bounding-set",
            "ruid",
            "euid",
            "rgid",
            "egid",
            "reuid",
            "regid",
            "groups",
            "securebits",
            "pdeathsig",
            "selinux-label",
            "apparmor-profile",
            "landlock-access",
            "landlock-rule",
            "seccomp-filter",
            "ptracer",
        ],
        0,
    ),
    wrapper("nohup", "", "", &[], 0),
    wrapper("setsid", "cfw", "", &[], 0),
    wrapper("dumb-init", "cv", "r", &["rewrite"], 0),
    wrapper("tini", "sgwv", "pe", &[], 0),
    wrapper("chroot", "", "", &[], 1),
    wrapper(
        "nsenter",
        "amuinpUCTrwFe",
        "tSG",
        &["target", "setuid", "setgid"],
        0,
    ),
    wrapper("cgexec", "", "g", &[], 0),
    wrapper(
        "systemd-run",
        "rqtPGdS",
        "upE",
        &[
            "unit",
            "property",
            "description",
            "slice",
            "setenv",
            "uid",
            "gid",
            "nice",
            "working-directory",
            "service-type",
            "expand-environment",
        ],
        0,
    ),
    // OpenShift's: it runs its arguments, in the mount namespace of $KUBENSMNT if that is set.
    wrapper("kubenswrapper", "", "", &[], 0),
    // The same, but it looks for that namespace itself.
    wrapper("kubensenter", "qv", "", &[], 0),
];

/// What is started in the end, and what the programs before it change.
pub(super) struct Launch {
    pub(super) words: Vec<Word>,
    pub(super) environment: BTreeMap<String, String>,
    /// The file system that it sees.
    pub(super) root: Root,
    /// What may have changed any option.
    pub(super) unread: Vec<String>,
}

/// A program that is known to start a kubelet in a way that is not read.
#[derive(Debug)]
pub(super) struct Recognised {
    pub(super) what: String,
    pub(super) why: String,
}

impl Launch {
    /// What this command starts. A program that is not known ends the search: it may add flags.
    pub(super) fn of(
        words: Vec<Word>,
        environment: BTreeMap<String, String>,
        root: Root,
    ) -> Result<Self, Recognised> {
        let mut launch = Self {
            words,
            environment,
            root,
            unread: Vec::new(),
        };
        for _ in 0..DEPTH {
            let Some(first) = launch.words.first() else { break };
            let name = program(&first.text).to_owned();
            if let Some(wrapper) = WRAPPERS.iter().find(|wrapper| wrapper.name == name) {
                launch.unwrap(wrapper)?;
            } else if shell::is(&name) && launch.runs_text() {
                launch.unwrap_shell(&name)?;
            } else {
                break;
            }
        }
        Ok(launch)
    }

    /// Whether this shell is given a text, not a script.
    fn runs_text(&self) -> bool {
        let mut options = self.words[1..].iter();
        options
            .by_ref()
            .take_while(|word| word.text.starts_with('-'))
            .any(|word| !word.text.starts_with("--") && word.text.contains('c'))
    }

    /// `sh -c TEXT`, if the text is one command.
    fn unwrap_shell(&mut self, name: &str) -> Result<(), Recognised> {
        let refused = |why: &str| Recognised {
            what: format!("a command of the shell ({name} -c)"),
            why: why.to_owned(),
        };
        let [_, options, text] = self.words.as_slice() else {
            return Err(refused("it has more options or arguments than are read here"));
        };
        if !options.text[1..].chars().all(|option| "ceux".contains(option)) {
            return Err(refused("it has options other than -c, -e, -u and -x"));
        }
        let Some((assignments, words)) = shell::simple_command(&text.text, &self.environment) else {
            return Err(refused(
                "the text is more than one command with arguments and plain variables",
            ));
        };
        self.environment.extend(assignments);
        let place = Arc::clone(&text.place);
        self.words = words
            .into_iter()
            .map(|text| Word {
                text,
                place: Arc::clone(&place),
            })
            .collect();
        Ok(())
    }

    fn unwrap(&mut self, wrapper: &Wrapper) -> Result<(), Recognised> {
        let refused = |why: String| Recognised {
            what: wrapper.name.to_owned(),
            why,
        };
        let (options, mut at) = wrapper
            .options(&self.words)
            .map_err(|option| refused(format!("its option {option} is not known here")))?;
        match wrapper.name {
            "env" => at = self.environment_of(&options, at).map_err(refused)?,
            "chrt" => at += usize::from(self.text(at).is_some_and(is_number)),
            "chroot" => {
                let below = self.text(at).unwrap_or_default();
                let root = self.root.resolve(below.as_ref());
                let root = root.map_err(|error| refused(format!("{below}: {error}")))?;
                self.root = Root::new(root);
            }
            "nsenter" => self.enter(&options),
            "systemd-run" => Self::check_transient(&options).map_err(refused)?,
            "kubensenter" => self.unread.push(
                "kubensenter: the kubelet may see the files of another mount namespace, which are not \
                 read"
                    .to_owned(),
            ),
            "kubenswrapper" => self.enter_kubens(&self.words[0].text.clone()).map_err(refused)?,
            _ => {}
        }
        at += wrapper.operands;
        if at >= self.words.len() {
            return Err(refused("no command follows its options".to_owned()));
        }
        self.words.drain(..at);
        Ok(())
    }

    fn text(&self, at: usize) -> Option<&str> {
        self.words.get(at).map(|word| word.text.as_str())
    }

    /// `env`: what it changes, and where its command begins.
    fn environment_of(&mut self, options: &Options, mut at: usize) -> Result<usize, String> {
        for (option, value) in options {
            match (option.as_str(), value) {
                ("-i" | "--ignore-environment", _) => self.environment.clear(),
                ("-u" | "--unset", Some(name)) => drop(self.environment.remove(name)),
                ("-v" | "--debug", _) => {}
                (option, _) => return Err(format!("its option {option} is not read here")),
            }
        }
        while let Some((name, value)) = self.text(at).and_then(|word| word.split_once('=')) {
            let (name, value) = (name.to_owned(), value.to_owned());
            self.environment.insert(name, value);
            at += 1;
        }
        Ok(at)
    }

    /// `nsenter`: the files of the namespace of process 1 are the node's.
    fn enter(&mut self, options: &Options) {
        let has = |names: [&str; 2]| {
            options
                .iter()
                .find(|(option, _)| names.contains(&option.as_str()))
        };
        let mount = has(["-m", "--mount"]).or_else(|| has(["-a", "--all"]));
        let of_init = has(["-t", "--target"]).is_some_and(|(_, value)| value.as_deref() == Some("1"));
        let other = mount.is_some_and(|(_, file)| file.is_some() || !of_init);
        if other || has(["-r", "--root"]).is_some() {
            self.unread.push(
                "nsenter: the kubelet sees the files of another mount namespace, which are not read"
                    .to_owned(),
            );
        }
    }

    fn check_transient(options: &Options) -> Result<(), String> {
        let elsewhere = |option: &&(String, Option<String>)| {
            matches!(
                option.0.as_str(),
                "-H" | "--host" | "-M" | "--machine" | "--user" | "--working-directory" | "-S" | "--shell"
            )
        };
        match options.iter().find(elsewhere) {
            Some((option, _)) => Err(format!("its option {option} is not read here")),
            None => Ok(()),
        }
    }

    fn enter_kubens(&mut self, path: &str) -> Result<(), String> {
        if self
            .environment
            .get("KUBENSMNT")
            .is_some_and(|value| !value.is_empty())
        {
            self.unread.push(
                "kubenswrapper: KUBENSMNT is set: the kubelet sees the files of that mount namespace, which \
                 are not read"
                    .to_owned(),
            );
        }
        // A copy of a node may lack its programs.
        let Ok(script) = self.root.read(path) else {
            return Ok(());
        };
        match shell::passes_arguments_on(&script) {
            true => Ok(()),
            false => Err(format!(
                "{path} is not the script that only runs its arguments: it has \"$@\" in another place than \
                 at the end of a command, or changes them"
            )),
        }
    }
}

type Options = Vec<(String, Option<String>)>;

impl Wrapper {
    /// The options at the beginning of a command of this program, and where what follows begins.
    ///
    /// # Errors
    /// An option that is not known.
    fn options(&self, words: &[Word]) -> Result<(Options, usize), String> {
        let mut found = Options::new();
        let mut at = 1;
        while let Some(word) = words.get(at).map(|word| word.text.as_str()) {
            let next = words.get(at + 1).map(|word| word.text.clone());
            if word == "--" {
                return Ok((found, at + 1));
            } else if let Some(long) = word.strip_prefix("--") {
                let (name, value) = match long.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None if self.long_valued.contains(&long) => {
                        at += 1;
                        (long, next)
                    }
                    None => (long, None),
                };
                found.push((format!("--{name}"), value));
            } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
                let Some(first) = letters.chars().find(|letter| !self.flags.contains(*letter)) else {
                    found.extend(letters.chars().map(|letter| (format!("-{letter}"), None)));
                    at += 1;
                    continue;
                };
                let (before, after) = letters.split_once(first).unwrap_or((letters, ""));
                found.extend(before.chars().map(|letter| (format!("-{letter}"), None)));
                if !self.valued.contains(first) {
                    return Err(format!("-{first}"));
                }
                let value = match after {
                    "" => {
                        at += 1;
                        next
                    }
                    after => Some(after.to_owned()),
                };
                found.push((format!("-{first}"), value));
            } else {
                break;
            }
            at += 1;
        }
        Ok((found, at))
    }
}

fn is_number(text: &str) -> bool {
    text.parse::<u32>().is_ok()
}
