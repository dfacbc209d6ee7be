// Package dashboard is what the page of kubectl berth ui and the screen of kubectl berth top show:
// a Snapshot of a cluster, and a Timeline of what changed from one to the next. It is pure, and
// takes what it says from packages view and why.
package dashboard
