//! Who may do what, and what the others are told.

use harness::Cli;

use crate::{EXE, world_with_vm};

#[test]
fn a_viewer_starts_nothing_and_an_operator_backs_up() {
    let world = world_with_vm("web01", 64, 4);
    let token = |role: &str| {
        let token = world.cli.json(&["token", "create", role, "--role", role]);
        world
            .cli
            .with("REPRISE_TOKEN", token["secret"].as_str().unwrap())
    };
    let (viewer, operator) = (token("viewer"), token("operator"));
    viewer.run(&["backup", "start", "web01"]).expect(5);
    viewer.run(&["policy", "create", "x"]).expect(5);
    operator
        .run(&["backup", "start", "web01", "--wait"])
        .expect(0);
    operator.run(&["user", "list"]).expect(5);
    operator
        .run(&["token", "create", "more", "--role", "administrator"])
        .expect(5);
}

#[test]
fn people_log_in_with_a_password_and_are_refused_with_another() {
    let world = world_with_vm("web01", 64, 4);
    let mut cli = Cli::new(EXE);
    cli.set("REPRISE_PROFILE", world.path("ann.toml").to_str().unwrap());
    let server = world.server_url();
    let ca = world.made["ca_file"].as_str().unwrap();
    let password = world.path("password");
    std::fs::write(&password, "correct horse battery\n").unwrap();
    let file = password.to_str().unwrap();
    world.cli.json(&[
        "user",
        "create",
        "ann",
        "--role",
        "operator",
        "--password-file",
        file,
    ]);

    let login = ["login", "--server", &server, "--ca", ca, "--user", "ann"];
    let done = cli.run_with_input(&login, b"wrong horse battery\n");
    done.expect(5);
    assert!(
        !world.path("ann.toml").exists(),
        "nothing is kept of a login that failed"
    );
    cli.run_with_input(&login, b"correct horse battery\n")
        .expect(0);
    let status = cli.json(&["status"]);
    assert_eq!(
        (&status["user"], &status["role"]),
        (&"ann".into(), &"operator".into())
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(world.path("ann.toml"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let token = std::fs::read_to_string(world.path("ann.toml")).unwrap();
    cli.run(&["logout"]).expect(0);
    assert!(!world.path("ann.toml").exists());
    std::fs::write(world.path("ann.toml"), token).unwrap();
    cli.run(&["status"]).expect(5);
}

#[test]
fn another_server_is_not_trusted() {
    let world = world_with_vm("web01", 64, 4);
    let stranger = world.cli.with("REPRISE_CA", &"ab".repeat(32));
    let done = stranger.run(&["status"]);
    done.expect(5);
    assert!(done.stderr.contains("--ca"), "{}", done.stderr);
}

#[test]
fn an_enrolment_token_works_once_and_a_revoked_agent_never_again() {
    let world = world_with_vm("web01", 64, 4);
    let token = world.cli.json(&["host", "token"]);
    let token = token["token"].as_str().unwrap();
    let server = world.server_url();
    let enroll = |name: &str, token: &str| {
        let data = world.path(name);
        world.cli.run(&[
            "agent",
            "enroll",
            "--data",
            data.to_str().unwrap(),
            "--server",
            &server,
            "--token",
            token,
        ])
    };
    assert_ne!(enroll("a1", "not a token").code, 0);
    enroll("a2", token).expect(0);
    let again = enroll("a3", token);
    assert!(
        again.code != 0 && again.stderr.contains("host token"),
        "{}",
        again.stderr
    );

    world.cli.json(&["host", "revoke", "HV01"]);
    world.wait_for("the agent to be refused", || {
        let host = world.cli.json(&["host", "show", "HV01"]);
        (host["state"] == "revoked").then_some(())
    });
    let made = world.cli.json(&["backup", "start", "web01"]);
    let job = world
        .cli
        .json(&["job", "show", made["id"].as_str().unwrap()]);
    assert_eq!(job["state"], "queued", "{job}");
}
