// Package view sums up what a cluster shows of Berth, for people and for scripts. It does no I/O.
package view
