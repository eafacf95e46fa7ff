//! Which kernel serves a problem: a backend's ordered rows, of which the first that accepts runs it.
//!
//! Flash comes before standard, the strongest level first, and the last row of a family serves all
//! that any other of it does. What a row needs of the machine is its backend's own; all else about a
//! choice (who accepts, why not, what is explained, what is logged) is here, once for all backends.

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::features::Features;
use crate::log;
use crate::problem::Problem;
use crate::settings::{self, Mode};
use std::ffi::CStr;
use std::fmt::{self, Display, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// A place that kernels run in: the CPU, CUDA.
pub trait Backend: Sized + 'static {
    const NAME: &'static str;
    /// What is known about the machine: an instruction set, a device's abilities.
    type Machine;
    /// What a row has beside an algorithm: kernels of an instruction set, modules of an architecture.
    type Kernels: 'static;
    /// Where a call runs: nothing, or a device and a stream.
    type Place;
    /// Why a machine does not run a row.
    type Lack: Display;

    fn rows() -> &'static [Row<Self>];
    /// Whether the machine runs a row's kernels.
    fn runs(machine: &Self::Machine, row: &Row<Self>) -> Result<(), Self::Lack>;
}

/// An algorithm's questions.
pub struct Algorithm<B: Backend> {
    pub family: Mode,
    /// What it computes beyond plain attention.
    pub serves: Features,
    /// Whether it serves the problem's types and sizes.
    pub supports: fn(&Problem, &B::Machine) -> Verdict<B>,
    pub workspace: fn(&Problem, &B::Machine) -> Workspace,
    pub run: fn(&Problem, &B::Kernels, &B::Place) -> Result<()>,
}

/// Whether something serves a problem, or why not.
pub type Verdict<B> = Result<(), Reason<<B as Backend>::Lack>>;

/// Bytes of workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Without which a kernel cannot run.
    pub min: usize,
    /// With which it runs best.
    pub preferred: usize,
}

impl Workspace {
    pub const NONE: Workspace = Workspace { min: 0, preferred: 0 };
}

/// Scores that standard MHA likes to store: enough rows to keep any machine busy. All rows of a long
/// prefill would be many times that, and no faster.
const MOST_SCORES: usize = 256 << 20;

/// What standard MHA asks for: the scores of one query row of every head at least, and of all rows
/// up to a bound.
pub fn score_workspace(p: &Problem) -> Workspace {
    let min = p.batch.saturating_mul(p.heads).saturating_mul(p.kv_len).saturating_mul(4);
    Workspace { min, preferred: min.saturating_mul(p.q_len).min(MOST_SCORES.max(min)) }
}

/// One kernel of a backend's table.
pub struct Row<B: Backend> {
    pub name: &'static CStr,
    pub algorithm: &'static Algorithm<B>,
    pub kernels: B::Kernels,
}

impl<B: Backend> Row<B> {
    pub fn name(&self) -> &'static str {
        self.name.to_str().unwrap_or_default()
    }
}

/// Why a row does not serve a problem; cheap to make, put into words only when asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason<Lack> {
    /// The caller asked for the other family of kernels.
    ModeExcludes {
        mode: &'static str,
    },
    /// `KFA_DISABLE_FLASH_ATTENTION` is set.
    FlashDisabled,
    /// The problem asks for more than the algorithm computes.
    Lacks(Features),
    /// The machine does not run it.
    Machine(Lack),
    QLen {
        q_len: usize,
        min: usize,
        max: usize,
    },
    HeadDim {
        head_dim: usize,
        max: usize,
    },
    /// No kernel has these types together.
    Dtypes {
        query: Dtype,
        key: Dtype,
        value: Dtype,
        output: Dtype,
    },
    /// Anything else, in a sentence that names the argument.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code))]
    Other(&'static str),
}

impl<Lack: Display> Display for Reason<Lack> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::ModeExcludes { mode } => write!(f, "the attention mode is {mode}"),
            Reason::FlashDisabled => {
                f.write_str("flash attention is disabled by KFA_DISABLE_FLASH_ATTENTION")
            }
            Reason::Lacks(features) => write!(f, "it does not implement {features}"),
            Reason::Machine(lack) => lack.fmt(f),
            Reason::QLen { q_len, min, max: usize::MAX } => {
                write!(f, "q_len is {q_len}; these kernels serve {min} and more")
            }
            Reason::QLen { q_len, min, max } if min == max => {
                write!(f, "q_len is {q_len}; these kernels serve {min}")
            }
            Reason::QLen { q_len, min, max } => {
                write!(f, "q_len is {q_len}; these kernels serve {min} to {max}")
            }
            Reason::HeadDim { head_dim, max } => {
                write!(f, "head_dim is {head_dim}; these kernels serve 1 to {max}")
            }
            Reason::Dtypes { query, key, value, output } => {
                write!(f, "no kernel for query {query}, key {key}, value {value}, output {output}")
            }
            Reason::Other(sentence) => f.write_str(sentence),
        }
    }
}

/// A problem before a backend's table on a machine.
pub struct Choice<'a, B: Backend> {
    problem: &'a Problem,
    machine: &'a B::Machine,
    mode: Mode,
    flash_disabled: bool,
}

/// The row that serves a problem, and what it asks for.
pub struct Plan<'a, B: Backend> {
    choice: Choice<'a, B>,
    row: &'static Row<B>,
    pub workspace: Workspace,
}

impl<'a, B: Backend> Choice<'a, B> {
    pub fn new(problem: &'a Problem, machine: &'a B::Machine) -> Self {
        Self {
            problem,
            machine,
            mode: settings::effective_mode(problem.mode),
            flash_disabled: settings::flash_disabled_by_environment(),
        }
    }

    /// Whether a row serves the problem, or why not.
    pub fn accepts(&self, row: &Row<B>) -> Verdict<B> {
        let algorithm = row.algorithm;
        match (self.mode, algorithm.family) {
            (Mode::Standard, Mode::Flash) => {
                return Err(Reason::ModeExcludes { mode: "standard" });
            }
            (Mode::Flash, Mode::Standard) => return Err(Reason::ModeExcludes { mode: "flash" }),
            _ => {}
        }
        if self.flash_disabled && algorithm.family == Mode::Flash {
            return Err(Reason::FlashDisabled);
        }
        let lacks = self.problem.features.without(algorithm.serves);
        if !lacks.is_empty() {
            return Err(Reason::Lacks(lacks));
        }
        B::runs(self.machine, row).map_err(Reason::Machine)?;
        (algorithm.supports)(self.problem, self.machine)
    }

    fn first(&self) -> Option<&'static Row<B>> {
        B::rows().iter().find(|row| self.accepts(row).is_ok())
    }

    /// Whether any row serves the problem. Puts nothing into words.
    pub fn is_served(&self) -> bool {
        self.first().is_some()
    }

    /// Chooses the row that serves the problem.
    pub fn plan(self) -> Result<Plan<'a, B>> {
        match self.first() {
            Some(row) => {
                let workspace = (row.algorithm.workspace)(self.problem, self.machine);
                Ok(Plan { choice: self, row, workspace })
            }
            None => Err(Error::unsupported(format!(
                "no {} kernel serves this problem: {}",
                B::NAME,
                self.refusal()
            ))),
        }
    }

    /// The most capable row of a family.
    fn last(family: Mode) -> Option<&'static Row<B>> {
        B::rows().iter().rfind(|row| row.algorithm.family == family)
    }

    /// Why neither family serves the problem, in the words of its most capable row.
    fn refusal(&self) -> String {
        [Mode::Flash, Mode::Standard]
            .into_iter()
            .filter_map(Self::last)
            .filter_map(|row| Some(format!("{}: {}", row.name(), self.accepts(row).err()?)))
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// Tells the choice: the row that serves the problem, then why each one before it did not.
    pub fn explain(&self) -> String {
        let mut passed_over = String::new();
        for row in B::rows() {
            match self.accepts(row) {
                Ok(()) => return format!("{}\n{passed_over}", row.name()),
                Err(reason) => {
                    let _ = writeln!(passed_over, "passed over {}: {reason}", row.name());
                }
            }
        }
        format!("none: no {} kernel serves this problem\n{passed_over}", B::NAME)
    }

    /// Says once per process, with the reason, that standard MHA runs where flash was expected.
    fn report_fallback(&self, row: &Row<B>) {
        static REPORTED: AtomicBool = AtomicBool::new(false);
        if self.mode != Mode::Auto
            || row.algorithm.family == Mode::Flash
            || REPORTED.load(Ordering::Relaxed)
            || REPORTED.swap(true, Ordering::Relaxed)
        {
            return;
        }
        if let Some(Err(reason)) = Self::last(Mode::Flash).map(|row| self.accepts(row)) {
            log::warning(&format!("falling back to standard MHA ({}): {reason}", row.name()));
        }
    }
}

impl<B: Backend> Plan<'_, B> {
    pub fn family(&self) -> Mode {
        self.row.algorithm.family
    }

    #[cfg_attr(not(feature = "cuda"), expect(dead_code))]
    pub fn row(&self) -> &'static Row<B> {
        self.row
    }

    /// Runs the problem with the chosen row: the one that was planned for, but in this workspace.
    pub fn run(&self, problem: &Problem, place: &B::Place) -> Result<()> {
        let needed = self.workspace.min;
        if problem.workspace_size < needed {
            return Err(Error::invalid(format!(
                "workspace_size is {}; expected at least {needed} bytes for {}",
                problem.workspace_size,
                self.row.name()
            )));
        }
        self.choice.report_fallback(self.row);
        (self.row.algorithm.run)(problem, &self.row.kernels, place)?;
        crate::error::set_last_kernel(self.row.name);
        Ok(())
    }
}
