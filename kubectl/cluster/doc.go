// Package cluster reads, once and with the user's own rights, all that a cluster has to say about
// Berth. What the commands of kubectl berth conclude from it is pure: they get a State, and no
// client.
package cluster
