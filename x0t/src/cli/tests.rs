//! The command line as a whole: is it consistent, and does it mean what its help says?

use clap::{CommandFactory, Parser};

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn the_help_lists_every_command_and_no_other() {
    let command = Cli::command();
    let listed: Vec<&str> = COMMANDS
        .lines()
        .filter_map(|line| line.strip_prefix("  ").and_then(|line| line.split_whitespace().next()))
        .collect();
    let mut existing: Vec<&str> =
        command.get_subcommands().filter(|c| !c.is_hide_set()).map(clap::Command::get_name).collect();
    let mut sorted = listed.clone();
    sorted.sort_unstable();
    existing.sort_unstable();
    assert_eq!(sorted, existing);
}

#[test]
fn every_command_and_flag_is_documented() {
    fn check(command: &clap::Command) {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
        }
        command.get_subcommands().for_each(check);
    }
    check(&Cli::command());
}

#[test]
fn global_flags_go_before_or_after_the_command() {
    for line in ["x0t --json --state-dir /s status", "x0t status --json --state-dir /s"] {
        let cli = parse(line).unwrap();
        assert!(cli.global.json && cli.global.state_dir() == std::path::Path::new("/s"), "{line}");
    }
}

#[test]
fn lists_are_given_by_repeating_or_by_commas() {
    for line in ["x0t run --peer 192.0.2.1 --peer h:1", "x0t run --peer 192.0.2.1,h:1"] {
        let Action::Run(run) = parse(line).unwrap().command else { panic!("{line}") };
        assert_eq!(run.node.peers.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.1:4600", "h:1"]);
    }
}

#[test]
fn ping_has_the_flags_of_ping() {
    let Action::Ping(ping) = parse("x0t ping beta -c 3 -i 0.2 -s 100 -W 1").unwrap().command else { panic!() };
    assert_eq!((ping.node.as_str(), ping.count, ping.size), ("beta", Some(3), 100));
    assert_eq!((ping.interval, ping.timeout), (Duration::from_millis(200), Duration::from_secs(1)));
    assert!(parse("x0t ping beta -s 1201").is_err());
    assert!(parse("x0t ping beta -c 0").is_err());
}

#[test]
fn a_wrong_use_has_exit_code_2() {
    for line in ["x0t", "x0t frobnicate", "x0t ping", "x0t token create --ttl 5", "x0t peer add 10.0.0.256", "x0t join"]
    {
        assert_eq!(parse(line).map(|_| ()).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn a_token_in_the_environment_is_never_shown() {
    let command = Cli::command();
    let join = command.find_subcommand("join").unwrap();
    let token = join.get_arguments().find(|arg| arg.get_id() == "token").unwrap();
    assert!(token.is_hide_env_values_set());
}

#[test]
fn every_command_and_variable_is_on_the_page_for_scripts() {
    const PAGE: &str = include_str!("../../COMMANDS.md");
    fn check(command: &clap::Command) {
        assert!(
            PAGE.contains(&format!("`{}", command.get_name())),
            "COMMANDS.md does not mention {}",
            command.get_name()
        );
        for variable in command.get_arguments().filter_map(clap::Arg::get_env).filter_map(|name| name.to_str()) {
            assert!(PAGE.contains(&format!("`{variable}`")), "COMMANDS.md does not mention {variable}");
        }
    }
    let command = Cli::command();
    check(&command);
    command.get_subcommands().for_each(check);
}
