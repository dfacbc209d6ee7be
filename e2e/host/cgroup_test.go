//go:build linux

package host

import "testing"

func TestCgroupMountsAreRecognized(t *testing.T) {
	for line, want := range map[string]Cgroup{
		"32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu": {
			Mount: "/sys/fs/cgroup/cpu", Options: "cpu",
		},
		"33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct": {
			Mount: "/sys/fs/cgroup/cpu,cpuacct", Options: "cpu,cpuacct",
		},
		"40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/x,name=systemd": {Mount: "/sys/fs/cgroup/systemd", Options: "none,name=systemd"},
		"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw":                              {Mount: "/sys/fs/cgroup/unified"},
		"30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate":                    {Mount: "/sys/fs/cgroup"},
	} {
		got, ok := parseCgroupMount(line)
		if !ok || got != want {
			t.Errorf("%q: %+v, %t; want %+v", line, got, ok, want)
		}
	}
	for _, line := range []string{
		"23 27 0:22 / /sys rw,relatime - sysfs sysfs rw",
		"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755",
		"99 23 0:50 / /mnt/other rw - cgroup2 cgroup2 rw",
		"",
	} {
		if got, ok := parseCgroupMount(line); ok {
			t.Errorf("%q is taken for %+v", line, got)
		}
	}
}
