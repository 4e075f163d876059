# Control groups as systemd lays them out; then `within GROUP USER CMD…` runs a command in one of them, as that user. To be sourced by bash, whose commands are not busybox.
# `login`: a login of user 1000, not delegated. `delegated`: a unit of that user's own manager. `service`: a unit with User= and Delegate=yes.
# `root`: a service of root. `container`: a group that its processes see as the root, as in a privileged container.
top=/sys/fs/cgroup
user=user.slice/user-1000.slice
manager=$user/user@1000.service
group_of() {
  case $1 in
    root) echo system.slice/ale.service ;;
    login) echo $user/session-1.scope ;;
    delegated) echo $manager/app.slice/ale.scope ;;
    service) echo system.slice/owned.service ;;
    container) echo system.slice/container.scope ;;
  esac
}
# lay_out CONTROLLERS: the controllers that units get, "+memory +pids +cpu" or fewer; all are there at the top, as on most systems.
lay_out() {
  for name in root login delegated service container; do mkdir -p "$top/$(group_of $name)"; done
  echo "+memory +pids +cpu" >$top/cgroup.subtree_control
  for name in system.slice user.slice $user $manager $manager/app.slice; do echo "$1" >$top/$name/cgroup.subtree_control; done
  for name in $manager "$(group_of service)"; do give "$top/$name"; done
  for name in $manager/app.slice "$(group_of delegated)"; do give "$top/$name"; done
}
give() { chown 1000:1000 "$1" "$1/cgroup.procs" "$1/cgroup.threads" "$1/cgroup.subtree_control"; }
within() {
  where=$1
  as=$2
  shift 2
  echo 0 >"$top/$(group_of "$where")/cgroup.procs"
  enter=
  [ "$where" != container ] || enter="unshare --cgroup --mount bash /run/guest/in-container.sh"
  if [ "$as" = root ]; then $enter "$@"; else setpriv --reuid=$as --regid=$as --clear-groups env HOME=/home/researcher TMPDIR=/tmp "$@"; fi
  code=$?
  echo 0 >$top/cgroup.procs
  return $code
}
