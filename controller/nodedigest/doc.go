// Package nodedigest publishes what speakers need of Nodes: see package config/digest for what and
// why. Begin with Publisher.
package nodedigest
