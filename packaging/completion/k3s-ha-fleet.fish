# fish completion for k3s-ha-fleet
# Made by packaging/generate; changes are made in the parser of the program.

complete -c k3s-ha-fleet -f

complete -c k3s-ha-fleet -n __fish_use_subcommand -a plan -d 'Show what apply would do where, with the checks made now; changes nothing.'
complete -c k3s-ha-fleet -n __fish_use_subcommand -a apply -d 'Migrate, join and verify, wave by wave. Run it again to go on where it was.'
complete -c k3s-ha-fleet -n __fish_use_subcommand -a status -d 'Show what every server is.'
complete -c k3s-ha-fleet -s h -l help -d 'Show this help message and exit.'
complete -c k3s-ha-fleet -s V -l version -d 'Show program'"'"'s version number and exit.'
complete -c k3s-ha-fleet -n '__fish_seen_subcommand_from plan' -s o -l output -x -a 'table json' -d 'For people or scripts.'
complete -c k3s-ha-fleet -n '__fish_seen_subcommand_from plan' -l no-color -d 'No colours; also by the variable NO_COLOR.'
complete -c k3s-ha-fleet -n '__fish_seen_subcommand_from plan' -l cluster -x -d 'Only this one; may be given several times.'
complete -c k3s-ha-fleet -n '__fish_seen_subcommand_from plan' -l retry -d 'Also what was rolled back before, once more.'
complete -c k3s-ha-fleet -n '__fish_seen_subcommand_from plan' -F
complete -c k3s-ha-fleet -n '__fish_seen_subcommand_from apply' -s o -l output -x -a 'table json' -d 'For people or scripts.'
complete -c k3s-ha-fleet -n '__fish_seen_subcommand_from apply' -l no-color -d 'No colours; also by the variable NO_COLOR.'
complete -c k3s-ha-fleet -n '__fish_seen_subcommand_from apply' -l cluster -x -d 'Only this one; may be given several times.'
complete -c k3s-ha-fleet -n '__fish_seen_subcommand_from apply' -l retry -d 'Also what was rolled back before, once more.'
complete -c k3s-ha-fleet -n '__fish_seen_subcommand_from apply' -l log -r -F -d 'Append every event as a line of JSON.'
complete -c k3s-ha-fleet -n '__fish_seen_subcommand_from apply' -s y -l yes -d 'Do not ask for confirmation on a terminal.'
complete -c k3s-ha-fleet -n '__fish_seen_subcommand_from apply' -F
complete -c k3s-ha-fleet -n '__fish_seen_subcommand_from status' -s o -l output -x -a 'table json' -d 'For people or scripts.'
complete -c k3s-ha-fleet -n '__fish_seen_subcommand_from status' -l no-color -d 'No colours; also by the variable NO_COLOR.'
complete -c k3s-ha-fleet -n '__fish_seen_subcommand_from status' -l cluster -x -d 'Only this one; may be given several times.'
complete -c k3s-ha-fleet -n '__fish_seen_subcommand_from status' -F
