//! Colours in disguise. `plotters` writes fixed colours into the SVG; each of these stands for a role, and the style sheet
//! made by [`css`] maps it to a CSS variable that differs between light and dark.

use plotters::style::RGBColor;

/// A role a colour plays in a plot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Text and strong lines.
    Ink,
    /// Secondary text.
    Muted,
    /// Grid lines.
    Grid,
    /// A gain.
    Better,
    /// A loss.
    Worse,
    /// No measurable change.
    Unchanged,
    /// The first series of a curve.
    Accent,
    /// The second series.
    Second,
    /// The third series, and so on.
    Third,
    /// See [`Role::Third`].
    Fourth,
    /// See [`Role::Third`].
    Fifth,
}

impl Role {
    const ALL: [Role; 11] = [
        Role::Ink,
        Role::Muted,
        Role::Grid,
        Role::Better,
        Role::Worse,
        Role::Unchanged,
        Role::Accent,
        Role::Second,
        Role::Third,
        Role::Fourth,
        Role::Fifth,
    ];

    /// The roles of several series, in turn.
    pub const SERIES: [Role; 5] = [Role::Accent, Role::Second, Role::Third, Role::Fourth, Role::Fifth];

    /// The fixed colour that stands for the role in the SVG.
    pub const fn color(self) -> RGBColor {
        match self {
            Role::Ink => RGBColor(1, 1, 1),
            Role::Muted => RGBColor(2, 2, 2),
            Role::Grid => RGBColor(3, 3, 3),
            Role::Better => RGBColor(4, 4, 4),
            Role::Worse => RGBColor(5, 5, 5),
            Role::Unchanged => RGBColor(6, 6, 6),
            Role::Accent => RGBColor(7, 7, 7),
            Role::Second => RGBColor(8, 8, 8),
            Role::Third => RGBColor(9, 9, 9),
            Role::Fourth => RGBColor(10, 10, 10),
            Role::Fifth => RGBColor(11, 11, 11),
        }
    }

    const fn variable(self) -> &'static str {
        match self {
            Role::Ink => "--ink",
            Role::Muted => "--muted",
            Role::Grid => "--line",
            Role::Better => "--better",
            Role::Worse => "--worse",
            Role::Unchanged => "--unchanged",
            Role::Accent => "--accent",
            Role::Second => "--second",
            Role::Third => "--third",
            Role::Fourth => "--fourth",
            Role::Fifth => "--fifth",
        }
    }
}

/// The role of a task's verdict word.
pub fn verdict_role(verdict: &str) -> Role {
    match verdict {
        "better" => Role::Better,
        "worse" => Role::Worse,
        _ => Role::Unchanged,
    }
}

/// The first lines of the page's style: the variables, light and dark.
pub fn variables() -> &'static str {
    let style = include_str!("templates/style.css");
    let ends = style.match_indices('\n').nth(1).map_or(style.len(), |(at, _)| at);
    &style[..ends]
}

/// Style rules that turn the disguised colours into variables.
pub fn css() -> String {
    let rule = |role: &Role| {
        let RGBColor(r, g, b) = role.color();
        let (hex, variable) = (format!("#{r:02X}{g:02X}{b:02X}"), role.variable());
        format!("svg [fill=\"{hex}\"]{{fill:var({variable})}}svg [stroke=\"{hex}\"]{{stroke:var({variable})}}")
    };
    Role::ALL.iter().map(rule).collect()
}
